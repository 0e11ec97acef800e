"""From an app call to a task: functions, arguments, files, temp files and resources."""
