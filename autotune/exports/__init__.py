"""Other systems' file formats, each way: winners written as they read them, their files read as a start."""
