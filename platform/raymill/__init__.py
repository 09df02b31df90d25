"""Raymill: from a lake of Parquet to served models, on Ray.

Importing this package loads no ray, torch, tensorflow or xgboost; a test holds it to that.
"""

__version__ = "0.1.0"
