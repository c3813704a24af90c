"""Code for a fresh process in which little is installed.

PROGRAM: without torch, transformers and pyarrow. argv is what `decodetr` gets, or nothing to import the runtime alone.
RUNTIME: with what docs/export.md says that the runtime needs, and nothing else. argv: the folder of an export with
names as input, a vocabulary, and pictures. It prints the scores of each as JSON.
"""

_WITHOUT = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if is_hidden(name.split(".")[0]):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""

PROGRAM = f"""
is_hidden = ("torch", "torchvision", "transformers", "accelerate", "timm", "pyarrow").__contains__
{_WITHOUT}
if sys.argv[1:]:
    from decodetr.cli import main
    sys.exit(main(sys.argv[1:]))
from decodetr.runtime import ExportedDetector
assert ExportedDetector.__module__ == "decodetr.runtime.exported_detector"
"""

RUNTIME = f"""
is_hidden = lambda name: name not in {{*sys.stdlib_module_names, *needed}}
needed = ("decodetr", "numpy", "PIL", "safetensors", "onnxruntime", "flatbuffers", "packaging", "google")
{_WITHOUT}
import importlib, json, pkgutil
import decodetr.runtime
for module in pkgutil.iter_modules(decodetr.runtime.__path__, "decodetr.runtime."):
    importlib.import_module(module.name)
from decodetr.runtime import ExportedDetector
from decodetr.runtime.providers import providers_of
folder, vocabulary, *pictures = sys.argv[1:]
detector = ExportedDetector(folder, providers=providers_of(folder, "auto"))
own = detector.detect(pictures, threshold=0.0)
detector.set_names(vocabulary=vocabulary)
other = detector.detect(pictures, threshold=0.0)
try:
    ExportedDetector("somebody/something")
except ImportError as error:
    print(error, file=sys.stderr)
print(json.dumps([own, other]))
"""
