/* The version of all programs, as --version, SETTINGS and /health say it. */
#ifndef TSTUNNEL_VERSION_H
#define TSTUNNEL_VERSION_H

#define TSTUNNEL_VERSION "0.1.0"

#endif
