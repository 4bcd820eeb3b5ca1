"""The pages in Airflow that show what happened to refunds."""
