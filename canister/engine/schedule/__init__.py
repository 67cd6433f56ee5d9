"""Who is in the next decode, and how large a prompt chunk may be. Pure, without llama.cpp."""
