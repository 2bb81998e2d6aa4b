"""Is a model good, is it better, may it be promoted: metrics, paired tests, drift, gate, registry."""
