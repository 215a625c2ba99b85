startComparison();
startIntervals();
startHeatMaps();
startExamples();
document.documentElement.dataset.ready = "true";
