"""The network, its configuration and its image processor: the files that ship to the Hub."""
