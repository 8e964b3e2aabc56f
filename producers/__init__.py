"""What enters the system: recorded logs, the topics themselves, and model versions.

Read mapping.py and mapping_file.py (how a data set is declared), datasets.py (rows to records), replay.py (records to
Kafka), topics.py (creation and checks), publish.py (models).
"""
