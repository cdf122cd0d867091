"""Images: data sets, generated worlds, backbones, and hooks that read their layers."""
