"""What several tests need: a running fabric, tiny models, the stock client in a process of its own."""
