"""What an artefact lost against the original."""
