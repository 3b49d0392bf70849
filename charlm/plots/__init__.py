"""Pictures of trainings and tables of runs, from what trainings leave in their folders. ``figure`` needs matplotlib."""
