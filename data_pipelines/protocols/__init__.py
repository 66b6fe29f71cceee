"""Published protocols: verification pairs, templates, lists of identities."""
