// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim worker`: runs the jobs of campaigns, matrices and attacks that were started elsewhere. */
import { availableParallelism, hostname } from 'node:os'
import { resolve } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { DEFAULT_HOST } from '../api/schemas/request.ts'
import { type ImageSource, parseSource } from '../fleet/images.ts'
import type { OwnOptions } from '../fleet/own.ts'
import { builtQemu, isSeries } from '../run/files.ts'
import { checkMemory } from '../sessions/memoryLimit.ts'
import type { Transport } from '../trap/messages.ts'
import {
  initrdOption,
  modulesOption,
  noSandbox,
  qemuArgOption,
  qemuOption,
  qemuSourceOption,
  ramDirOption,
  transportOption,
} from './bootOptions.ts'
import { act, UsageError } from './exit.ts'
import { checkKernel } from './kernels.ts'
import { list, port, within } from './numbers.ts'
import { folder } from './paths.ts'
import { connectionOf, endSoon, type QueueOptions, queueOptions } from './queueOptions.ts'
import { say } from './terminal.ts'

/** Where the metrics are. */
interface MetricsAddress {
  readonly host: string
  readonly port: number
}

interface WorkerCommandOptions extends QueueOptions {
  readonly jobs: number
  readonly name: string
  readonly metrics?: MetricsAddress
  readonly kernel: readonly string[]
  readonly kernelsFrom?: ImageSource
  readonly modules?: string
  readonly initrd?: string
  readonly qemuArg: readonly string[]
  readonly qemu?: string
  readonly ramDir: string
  readonly transport: Transport
  readonly sandbox: boolean
}

function name(text: string): string {
  if (!/^[\x21-\x7e]{1,100}$/.test(text)) throw new InvalidArgumentError('expected up to 100 letters without spaces')
  return text
}

/** `9100`, `0.0.0.0:9100`, `[::]:9100` */
function metricsAddress(text: string): MetricsAddress {
  const [, host = DEFAULT_HOST, digits = ''] = /^(?:\[?([^[\]\s]+?)\]?:)?(\d+)$/.exec(text) ?? []
  if (digits === '') throw new InvalidArgumentError('expected PORT, or HOST:PORT')
  return { host, port: port(digits) }
}

/** @throws InvalidArgumentError */
function imageSource(text: string): ImageSource {
  try {
    const source = parseSource(text)
    if ('folder' in source) folder(text)
    return source
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

export function workerCommand(program: Command): void {
  const worker = program
    .command('worker')
    .description('run jobs of campaigns, matrices and attacks that were started elsewhere with --queue')
  queueOptions(worker, 'where the jobs come from')
    .option('--jobs <n>', 'at a time', within(1, 256), availableParallelism())
    .option('--name <name>', 'what senders call this worker', name, `${hostname()}-${process.pid}`)
    .addOption(
      new Option('--metrics <[host:]port>', 'Prometheus metrics of this worker, at /metrics there').argParser(
        metricsAddress,
      ),
    )
    .addOption(
      new Option(
        '--kernel <list>',
        "kernels besides Debian's that jobs may boot: arm64 Images, folders of kernel builds",
      )
        .argParser(list)
        .default([], 'none'),
    )
    .addOption(
      new Option(
        '--kernels-from <dir|url>',
        'where else kernels and initramfs that jobs boot may come from, by their SHA-256: a folder that senders --publish to, or http(s)://HOST[:PORT]/… of one',
      ).argParser(imageSource),
    )
    .addOption(modulesOption())
    .addOption(initrdOption("initramfs of your own that jobs boot, with the workload's agent in it"))
    .addOption(qemuArgOption())
    .addOption(ramDirOption())
    .addOption(transportOption())
    .addOption(noSandbox())
    .addOption(qemuOption())
    .addOption(qemuSourceOption())
    .action((options: WorkerCommandOptions) => act(signal => work(options, signal)))
}

async function work(options: WorkerCommandOptions, signal: AbortSignal): Promise<void> {
  const connection = connectionOf(options)
  if (connection === undefined) throw new UsageError('--queue is missing: where do the jobs come from?')
  const { jobs, name, kernel, kernelsFrom, modules, initrd, qemuArg, qemu, ramDir, transport, sandbox } = options
  const own: OwnOptions = {
    kernels: kernel.filter(word => !isSeries(word)).map(word => resolve(word)),
    ...(kernelsFrom !== undefined && { kernelsFrom }),
    ...(modules !== undefined && { modules: resolve(modules) }),
    ...(initrd !== undefined && { initrd: resolve(initrd) }),
    ...(await builtQemu({ ...(qemu !== undefined && { qemu }) }, signal)),
    ...{ jobs, qemuArgs: qemuArg, ramDir, transport, sandbox },
  }
  for (const kernel of own.kernels)
    await checkKernel({ kernel, ...(modules && { modules }), ...(initrd && { initrd }) }, say)
  checkMemory(jobs)
  // What talks to a queue is loaded when there is one.
  const { Own } = await import('../fleet/own.ts')
  const { FleetWorker } = await import('../fleet/worker.ts')
  const mine = new Own(own, signal)
  const { serveMetrics, WorkerMetrics } = await import('../fleet/workerMetrics.ts')
  const metrics = new WorkerMetrics()
  const { host = '', port = 0 } = options.metrics ?? {}
  const served =
    options.metrics &&
    (await serveMetrics(host, port, () => metrics.text()).catch((error: Error) => {
      throw new Error(`--metrics: ${error.message}`)
    }))
  if (served !== undefined) say(`metrics at http://${host.includes(':') ? `[${host}]` : host}:${served.port}/metrics`)
  try {
    await FleetWorker.run(
      {
        ...{ connection, name, jobs, own, metrics, say },
        answer: (job, signal) => mine.answer(job, signal),
        module: new URL('../fleet/jobProcess.ts', import.meta.url),
      },
      signal,
    )
  } finally {
    served?.close()
    endSoon()
  }
}
