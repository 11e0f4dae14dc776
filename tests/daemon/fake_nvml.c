/* libnvidia-ml.so.1 as one H200 would answer, or as many as FAKE_NVML_COUNT says. Their mood is read from the file
   FAKE_NVML at every call: "idle", "foreign", "throttled", "lost", "hang" or "uninitialized", or "held PID MIB": so
   much memory is in use beside the driver's own, by a process that is listed, or by none if its number is 0. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int Return;
enum { OK = 0, NOT_INITIALIZED = 1, NOT_SUPPORTED = 3, SMALL = 7, DRIVER = 9, LOST = 15 };

static int is(const char *mood) {
  char found[32] = "";
  FILE *file = fopen(getenv("FAKE_NVML"), "r");
  if (file) { if (fscanf(file, "%31s", found) != 1) found[0] = 0; fclose(file); }
  return strcmp(found, mood) == 0;
}
static unsigned holder(unsigned long long *mib) {
  unsigned pid = 0;
  FILE *file = fopen(getenv("FAKE_NVML"), "r");
  *mib = 0;
  if (file) { if (fscanf(file, "held %u %llu", &pid, mib) != 2) pid = 0; fclose(file); }
  return pid;
}
static Return answer(void) {
  while (is("hang")) usleep(10000);
  return is("lost") ? LOST : is("uninitialized") ? DRIVER : OK;
}

Return nvmlInit_v2(void) { return answer(); }
Return nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
Return nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(Return code) { return code == LOST ? "GPU is lost" : code == DRIVER ? "Driver Not Loaded" : "Not Supported"; }
Return nvmlSystemGetDriverVersion(char *to, unsigned n) { snprintf(to, n, "580.95.05"); return OK; }
Return nvmlDeviceGetCount_v2(unsigned *count) {
  const char *there = getenv("FAKE_NVML_COUNT");
  *count = there ? (unsigned)atoi(there) : 1;
  return answer();
}
Return nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device) { (void)i; *device = (void *)1; return answer(); }
Return nvmlDeviceGetName(void *d, char *to, unsigned n) { (void)d; snprintf(to, n, "NVIDIA H200"); return answer(); }
Return nvmlDeviceGetCudaComputeCapability(void *d, int *major, int *minor) { (void)d; *major = 9; *minor = 0; return answer(); }
Return nvmlDeviceGetNumGpuCores(void *d, unsigned *cores) { (void)d; *cores = 16896; return answer(); }
Return nvmlDeviceGetMemoryInfo(void *d, unsigned long long *info) {
  unsigned long long held;
  (void)d; (void)holder(&held);
  info[0] = 143771ull << 20; info[2] = (600ull + held) << 20; info[1] = info[0] - info[2]; return answer();
}
Return nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *count, unsigned long long *infos) {
  (void)d;
  Return code = answer();
  if (code) return code;
  unsigned long long held = 5;
  unsigned pid = is("foreign") ? 1 : holder(&held), there = pid != 0, room = *count;
  *count = there;
  if (!there) return OK;
  if (!infos || room < there) return SMALL;
  memset(infos, 0, 24);
  ((unsigned *)infos)[0] = pid;
  infos[1] = held << 20;
  return OK;
}
Return nvmlDeviceGetMPSComputeRunningProcesses_v3(void *d, unsigned *count, void *infos) { (void)d; (void)infos; *count = 0; return answer(); }
Return nvmlDeviceGetUUID(void *d, char *to, unsigned n) { (void)d; snprintf(to, n, "GPU-1"); return answer(); }
Return nvmlDeviceGetMemoryBusWidth(void *d, unsigned *bits) { (void)d; *bits = 6144; return answer(); }
Return nvmlDeviceGetMaxClockInfo(void *d, int kind, unsigned *mhz) { (void)d; *mhz = kind == 1 ? 1980 : 3201; return answer(); }
Return nvmlDeviceGetClockInfo(void *d, int kind, unsigned *mhz) { (void)d; *mhz = kind == 1 ? 1980 : 3201; return answer(); }
Return nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned *mw) { (void)d; *mw = 700000; return answer(); }
Return nvmlDeviceGetPowerUsage(void *d, unsigned *mw) { (void)d; *mw = 120000; return answer(); }
Return nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj) { (void)d; *mj = 5000; return answer(); }
Return nvmlDeviceGetEccMode(void *d, int *now, int *later) { (void)d; *now = *later = 1; return answer(); }
Return nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *later) { (void)d; *now = *later = 0; return answer(); }
Return nvmlDeviceGetCurrentClocksEventReasons(void *d, unsigned long long *bits) { (void)d; *bits = is("throttled") ? 0x44 : 0x1; return answer(); }
Return nvmlDeviceGetTemperature(void *d, int sensor, unsigned *degrees) { (void)d; (void)sensor; *degrees = 40; return answer(); }
