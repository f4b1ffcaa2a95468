"""Where models come from: the catalog, files, URLs, the hub, Python packages."""

from models.sources.find import known
from models.sources.progress import Progress, Report
from models.sources.pull import pull

__all__ = ["Progress", "Report", "known", "pull"]
