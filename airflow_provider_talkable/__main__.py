"""``python -m airflow_provider_talkable``"""

from airflow_provider_talkable.cli.definition import main

if __name__ == "__main__":
    main()
