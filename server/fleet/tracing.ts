// SPDX-License-Identifier: Apache-2.0
/**
 * Traces of jobs, from the sender through the queue to the worker, by OpenTelemetry: for who has a collector, which is named as everywhere, by
 * OTEL_EXPORTER_OTLP_ENDPOINT and the like.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Telemetry } from 'bullmq'
import { projectVersion } from '../trace/version.ts'

export interface Tracing {
  /** For BullMQ's queues and workers. */
  readonly telemetry: Telemetry
  /** Sends what is left. */
  close(): Promise<void>
}

const NAME = 'smmu-cosim'
const CLOSE_MS = 5_000

/** One at a time in a process. @returns undefined when nobody wants traces: nothing of OpenTelemetry is loaded then */
export async function openTracing(env: NodeJS.ProcessEnv = process.env): Promise<Tracing | undefined> {
  const { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: traces } = env
  if (!endpoint && !traces) return undefined
  const [
    api,
    { AsyncLocalStorageContextManager },
    { W3CTraceContextPropagator },
    sdk,
    exporter,
    { BullMQOtel },
    { resourceFromAttributes },
  ] = await Promise.all([
    import('@opentelemetry/api'),
    import('@opentelemetry/context-async-hooks'),
    import('@opentelemetry/core'),
    import('@opentelemetry/sdk-trace'),
    import('@opentelemetry/exporter-trace-otlp-http'),
    import('bullmq-otel'),
    import('@opentelemetry/resources'),
  ])
  const version = projectVersion()
  const provider = new sdk.TracerProvider({
    resource: resourceFromAttributes({ 'service.name': env.OTEL_SERVICE_NAME ?? NAME, 'service.version': version }),
    spanProcessors: [new sdk.BatchSpanProcessor({ exporter: new exporter.OTLPTraceExporter() })],
  })
  api.trace.setGlobalTracerProvider(provider)
  api.context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
  api.propagation.setGlobalPropagator(new W3CTraceContextPropagator())
  return {
    telemetry: new BullMQOtel({ tracerName: NAME, version }),
    async close() {
      // A collector that is away is no reason to fail, or to wait for long.
      await Promise.race([provider.shutdown().catch(() => {}), sleep(CLOSE_MS, undefined, { ref: false })])
      for (const global of [api.trace, api.context, api.propagation]) global.disable()
    },
  }
}
