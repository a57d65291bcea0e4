"""Which data should a language model be trained on?

Array names carry their dimensions: `w_MC` is mixtures by members.

    B  rows of a batch        L  tokens of a row      D  model width
    F  feed-forward width     H  heads                G  key-value heads
    K  head size              V  vocabulary           N  layers
    C  members of a pool      M  mixtures             R  evaluation rows
    E  documents
"""

__version__ = "0.1.0"
