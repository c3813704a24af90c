"""A folder to the Hub (docs/hub.md).

contents.py  which of its files go, which stay, and whether it can be loaded
push.py      one commit of a repository
"""
