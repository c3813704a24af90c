"""Cached features of a frozen detector, so that the semantic stream is trained without running it.

feature_cache.py        FeatureCache: what the Trainer reads
feature_building.py     how they are made
feature_shards.py       how they lie on disk
feature_coding.py, quantization.py   how they take fewer bits
"""
