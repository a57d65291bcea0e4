"""All of it to something to look at: console tables, and one HTML file."""
