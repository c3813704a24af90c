"""The Dynamic Hierarchical Concept Pool, offline: proposals -> captions -> CLIP -> filter -> clusters (paper 1;
docs/paper.md).

build.py            build_pool: all stages, to a regions data set and a PrototypePool
stages.py           the heavy stages: proposals, captions, embeddings
cost.py             what stages took
shard_makers.py     the rows of one of their shards
engines.py          who makes which: this process, or ray_engine.py and ray_worker.py: a cluster
image_captions.py   captions of whole images among those of regions (C-OVD)
selection.py        the light ones: which regions are kept, the pool of their captions
shards.py           StageFolder: a stage's output as numbered shards that survive a kill
proposals.py        boxes: annotated ones of base names, and what the class-agnostic detector proposes
proposers.py        what can propose: a grid, a DeCo-DETR, other detectors
crops.py            a box as the square picture that CLIP and the captioner see
embedding_columns.py  embeddings as a column of a table
captioner.py        Captioner: LLaVA's captions of crops; served_captioner.py: from a server
lazy_model.py       a model that is loaded when it is first used
batches.py          batches that become smaller when memory runs out
embedder.py         ClipEmbedder: CLIP's embeddings of crops and captions
delta.py            the cosine from which on a caption agrees with its picture
clusters.py         K-Means to M1, DBSCAN inside each coarse cluster to M2, on plain arrays
density_tree.py     what DBSCAN finds at every eps, from one tree
space.py            the embedding space of a pool, measured
inspection.py       what a pool holds and covers, in numbers
drift.py            how far training has moved a pool
pool_map.py         a picture of a pool
pool_page.py        the same as a page that can be searched
settings.py         PoolSettings: every option and its default; PoolTask: a stage and what it is given
preflight.py        what is checked before a stage
pool_run.py         run_stage: the images and models that were named, and what a stage makes of them
"""
