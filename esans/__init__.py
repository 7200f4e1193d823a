"""ESANS: training for embedding-based retrieval with semantic-aware negatives."""

__version__ = "0.1.0"
