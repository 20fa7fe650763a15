"""The translator: its corpora, its network and how it decodes."""
