"""The Dynamic Hierarchical Concept Pool, offline: proposals -> captions -> CLIP -> filter -> clusters (paper 1;
docs/paper.md).

build.py            build_pool: all stages, to a regions data set and a PrototypePool
stages.py           the heavy stages: proposals, captions, embeddings
image_captions.py   captions of whole images among those of regions (C-OVD)
selection.py        the light ones: which regions are kept, the pool of their captions
shards.py           StageFolder: a stage's output as numbered shards that survive a kill
proposals.py        boxes: annotated ones of base names, and what the class-agnostic detector proposes
crops.py            a box as the square picture that CLIP and the captioner see
captioner.py        Captioner: LLaVA's captions of crops; served_captioner.py: from a server; prompts.py: what is asked
batches.py          batches that become smaller when memory runs out
embedder.py         ClipEmbedder: CLIP's embeddings of crops and captions
clusters.py         K-Means to M1, DBSCAN inside each coarse cluster to M2, on plain arrays
inspection.py       what a pool holds and covers, in numbers
drift.py            how far training has moved a pool
pool_map.py         a picture of a pool
pool_page.py        the same as a page that can be searched
settings.py         PoolSettings: every option and its default
command.py          the command `decodetr pool`
"""
