"""The language panel in nerfstudio's viewer: type, see, click, take."""
