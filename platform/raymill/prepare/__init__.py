"""Raw CSV or Parquet to training datasets: join, derive, split, shard, describe. Ray Data does the work."""
