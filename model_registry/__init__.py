"""MLflow: runs of training, versions of models, aliases."""
