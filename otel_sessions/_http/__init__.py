"""HTTP by itself: cookies, addresses, caching. Nothing here knows sessions, and nothing here awaits."""
