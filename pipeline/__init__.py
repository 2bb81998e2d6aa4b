"""The steps of an hour and a day, composed from the other folders: what DAG tasks and command lines call."""
