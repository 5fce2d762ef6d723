"""Pipelines: forming datums, deciding what runs (pure, in `job_state`), running it in a sandbox (`executor`)."""
