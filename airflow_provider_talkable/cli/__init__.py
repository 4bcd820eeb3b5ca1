"""The command line: ``airflow talkable`` and ``python -m airflow_provider_talkable``."""
