// SPDX-License-Identifier: Apache-2.0
/** The options of all commands that have to do with a fleet's queue: where it is, and what lets one in. */
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createSecureContext } from 'node:tls'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { parseQueue, QUEUE_PASSWORD, type QueueConnection } from '../fleet/queue.ts'
import { POLICY_NAMES } from '../policy/load.ts'
import { UsageError } from './exit.ts'
import { folder, inputFile } from './paths.ts'
import { readSecret } from './tokenFile.ts'

/** Of a policy in a file. */
export const ONLY_BUILT_IN = `workers have ${POLICY_NAMES.join(', ')}, and take no code from elsewhere`

export interface QueueOptions {
  readonly queue?: QueueConnection
  readonly queuePasswordFile?: string
  readonly queueCa?: string
  readonly queueCert?: string
  readonly queueKey?: string
  /** Of senders whose jobs boot kernels. */
  readonly publish?: string
}

function address(text: string): QueueConnection {
  try {
    return parseQueue(text)
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

/** @param about what the command does with the queue */
export const queueOptions = (command: Command, about: string): Command =>
  command
    .addOption(
      new Option(
        '--queue <url>',
        `${about}: a Redis or Valkey, redis://[USER@]HOST[:PORT][/DB], or rediss://… with TLS`,
      ).argParser(address),
    )
    .option(
      '--queue-password-file <file>',
      `with the password of the queue (or environment ${QUEUE_PASSWORD})`,
      inputFile,
    )
    .option('--queue-ca <file>', 'PEM: who may have signed the certificate of the queue', inputFile)
    .option('--queue-cert <file>', 'PEM: the certificate that the queue asks for', inputFile)
    .option('--queue-key <file>', 'PEM: the key of that certificate', inputFile)

/** Of senders whose jobs boot kernels. */
export const publishOption = (): Option =>
  new Option(
    '--publish <dir>',
    'with --queue: put kernels and initramfs of your own into this folder, for all users to read, where workers with --kernels-from find them',
  ).argParser(folder)

/** Until a process ends that only has connections to a queue which says nothing, ms. */
const HELD_MS = 10_000

/** Ends this process soon, whatever connections to a queue are still open; one that has none ends by itself before. */
export const endSoon = (): void => void setTimeout(() => process.exit(), HELD_MS).unref()

/** Node takes a file without certificates for an authority that has signed nothing. @throws UsageError */
function authority(path: string): Buffer {
  const ca = readFileSync(path)
  try {
    new X509Certificate(ca)
  } catch {
    throw new UsageError(`--queue-ca ${path}: expected a certificate in PEM`)
  }
  return ca
}

/** @throws UsageError when they are not what TLS takes, or are not of each other */
function identity(certificate: string, secret: string): { readonly cert: Buffer; readonly key: Buffer } {
  const [cert, key] = [readFileSync(certificate), readFileSync(secret)]
  try {
    createSecureContext({ cert, key })
  } catch (error) {
    const why = (error as Error).message
    throw new UsageError(
      `--queue-cert ${certificate}, --queue-key ${secret}: expected a certificate and its key in PEM (${why})`,
    )
  }
  return { cert, key }
}

/**
 * How the queue is reached; undefined: nothing was said of one.
 * @throws UsageError for options that do not fit; Error when a file cannot be read, or others can read the password
 */
export function connectionOf(
  options: QueueOptions,
  password = process.env[QUEUE_PASSWORD],
): QueueConnection | undefined {
  const { queue, queuePasswordFile: file, queueCa, queueCert, queueKey, publish } = options
  const of = {
    '--queue-password-file': file,
    '--queue-ca': queueCa,
    '--queue-cert': queueCert,
    '--queue-key': queueKey,
    '--publish': publish,
  }
  if (queue === undefined) {
    const [alone] = Object.entries(of).find(([, value]) => value !== undefined) ?? []
    if (alone !== undefined) throw new UsageError(`${alone}: without --queue there is no queue`)
    return undefined
  }
  if ((queueCert === undefined) !== (queueKey === undefined)) {
    throw new UsageError('--queue-cert and --queue-key: the one is of no use without the other')
  }
  if (queue.tls === undefined && (queueCa ?? queueCert) !== undefined) {
    throw new UsageError('--queue-ca, --queue-cert: of a queue with TLS, rediss://')
  }
  const secret = file === undefined ? password : readSecret('--queue-password-file', file)
  return {
    ...queue,
    ...(secret !== undefined && secret !== '' && { password: secret }),
    ...(queue.tls && {
      tls: {
        ...queue.tls,
        ...(queueCa !== undefined && { ca: authority(queueCa) }),
        ...(queueCert !== undefined && queueKey !== undefined && identity(queueCert, queueKey)),
      },
    }),
  }
}
