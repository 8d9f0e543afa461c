"""Everything of Hydra and OmegaConf: the schema, composition, checks, run ids, sweep files, help."""
