"""How fast an artefact is in the engine that it is for, and how much memory that takes."""
