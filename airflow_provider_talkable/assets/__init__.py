"""Assets: what a task brings up to date, and what other DAGs are scheduled on."""
