"""Ask for every address outside that the documents name, and print those that do not answer. Needs the network, so no
test runs it: `python tests/helpers/outside_links.py [FILE ...]`; exit status 1 if one is missing."""

import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_ADDRESS = re.compile(r"https?://[^\s)>\]'\"`|]+")
_NOT_ASKED = re.compile(r"^https?://(127\.0\.0\.1|localhost|\.\.\.)|[{}$]|\.\.\.")  # of this machine, or no address


def addresses(files):
    """{address: files that name it}."""
    found = {}
    for file in files:
        for address in _ADDRESS.findall(Path(file).read_text(encoding="utf-8")):
            address = address.rstrip(".,;:")
            if not _NOT_ASKED.search(address):
                found.setdefault(address, []).append(str(file))
    return found


def problem(address):
    """None if something answers there, else what was said."""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (links of the documentation)"})
    try:
        with urllib.request.urlopen(request, timeout=30):
            return None
    except (OSError, ValueError) as error:  # HTTPError and URLError are OSErrors
        if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 405, 429):
            return None  # there, but not for programs
        return str(error)


def main(words):
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = words or [ROOT / name for name in listed.stdout.split()]
    found = addresses(files)
    broken = {address: said for address in sorted(found) if (said := problem(address))}
    for address, said in broken.items():
        sys.stdout.write(f"{address}: {said}; named in {', '.join(found[address])}\n")
    sys.stdout.write(f"{len(found) - len(broken)} of {len(found)} addresses answer\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
