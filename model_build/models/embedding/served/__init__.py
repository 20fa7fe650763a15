"""What Triton runs of the embedder, in the server's interpreter: these files are copied into its version folder."""
