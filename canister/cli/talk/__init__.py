"""What `canister chat` is made of: which server, how texts become prompts, what a person types, what is shown."""
