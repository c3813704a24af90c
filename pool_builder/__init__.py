"""The Dynamic Hierarchical Concept Pool, offline (PAPER.md 1): proposals -> captions -> CLIP -> filter -> clusters.

proposals.py   boxes: annotated ones of base names, and what the class-agnostic detector proposes
crops.py       a box as the square picture that CLIP and the captioner see
captioner.py   Captioner: LLaVA's captions of crops
embedder.py    ClipEmbedder: CLIP's embeddings of crops and captions
clusters.py    K-Means to M1, DBSCAN inside each coarse cluster to M2, on plain arrays
settings.py    PoolSettings: every option and its default
build.py       build_pool: all of it, to a regions data set and a PrototypePool
command.py     the command `decodetr pool build`
"""
