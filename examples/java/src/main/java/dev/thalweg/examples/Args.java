package dev.thalweg.examples;

import java.util.HashMap;
import java.util.Map;

/** Flags of the form {@code --name value}. */
record Args(Map<String, String> values) {
  static Args parse(String[] args) {
    Map<String, String> values = new HashMap<>();
    for (int i = 0; i < args.length; i += 2) {
      if (!args[i].startsWith("--") || i + 1 == args.length) {
        throw new IllegalArgumentException("flags are pairs of --name value, not " + args[i]);
      }
      values.put(args[i].substring(2), args[i + 1]);
    }
    return new Args(values);
  }

  String text(String name, String byDefault) {
    return values.getOrDefault(name, byDefault);
  }

  long number(String name, long byDefault) {
    return Long.parseLong(text(name, Long.toString(byDefault)));
  }
}
