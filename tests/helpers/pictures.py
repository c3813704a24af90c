"""Pictures of one colour."""

from PIL import Image


def write_image(path, size=(80, 60), color=(90, 120, 90), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path
