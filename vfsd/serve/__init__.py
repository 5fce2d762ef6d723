"""One view of the namespace, and thin adapters of it. The view holds the rules; adapters translate."""
