"""What may be told of an address."""

from urllib.parse import urlsplit, urlunsplit


def without_secrets(url: str) -> str:
    """An address as it may be told to everybody: without its user and password, and its query, which may be a key."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
