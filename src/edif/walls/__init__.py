"""What the Linux kernel can close a process in with. No torch, no settings: the process that is closed in imports this too."""
