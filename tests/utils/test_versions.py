from importlib.metadata import version

import decodetr
from decodetr.utils import versions
from decodetr.utils.versions import package_versions


def test_a_checkout_that_nobody_installed_knows_its_version(monkeypatch):
    def of_installed(package):
        assert package != "decodetr"
        return version(package)

    monkeypatch.setattr(versions, "version", of_installed)
    assert package_versions(["decodetr", "numpy"]) == {"decodetr": decodetr.__version__, "numpy": version("numpy")}
