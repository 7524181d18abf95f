"""The web page of the server: chat, tasks, pictures of the inside, reports of comparisons."""
