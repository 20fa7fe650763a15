"""What Triton runs of the translator, in the server's interpreter: these files are copied into its version folder."""
