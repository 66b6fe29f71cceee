from fr_jax.lazy import attributes

__getattr__ = attributes(
    __name__,
    {
        "augment_embeddings": ".augmenter",
        "load": ".data",
        "make": ".system",
    },
)
