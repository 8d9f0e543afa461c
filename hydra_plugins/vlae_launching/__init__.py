"""The sweeper and the launchers that conf/hydra/ names; Hydra looks for them here."""
