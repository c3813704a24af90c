"""The photo world of benchmarks/photo_world.py: stamps, pictures, folder, teachers, chain. See docs/photo_world.md."""
